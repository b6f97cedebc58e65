"""The process environment under which GDAL may meet bytes that we did not choose.

GDAL reads most of these once, when it is loaded, so the engine puts them into a child's environment before the child
starts; `GDAL_SKIP` set later has no effect at all. Nothing here imports rasterio. What GDAL also obeys at run time is
repeated by `runtime_options`, which every open and read of the raster normalizer goes through, so that a normalizer
used without the engine keeps the same promises wherever GDAL lets it.
"""

from __future__ import annotations

#: Drivers that stay (PNG: one way GRIB packs). Everything else would only widen what hostile bytes can reach.
KEPT_DRIVERS = frozenset({"GTiff", "COG", "MEM", "JP2OpenJPEG", "netCDF", "HDF5", "HDF5Image", "GRIB", "ENVI", "PNG"})

#: Drivers of GDAL 3.4 to 3.12 that are taken out. The first line opens hosts or other files by design.
_SKIPPED_DRIVERS = (
    "VRT,WMS,WCS,WMTS,STACIT,STACTA,GTI,HTTP,PLMOSAIC,EEDA,EEDAI,DAAS,OGCAPI,NGW,Zarr,DERIVED,SNAP_TIFF,"
    "AAIGrid,ACE2,ADRG,AIG,AirSAR,ARG,AVCBin,AVCE00,BAG,BASISU,BIGGIF,BLX,BMP,BSB,BT,BYN,CAD,CALS,CEOS,COASP,COSAR,"
    "CPG,CSV,CTG,CTable2,DDS,DGN,DIMAP,DIPEx,DOQ1,DOQ2,DTED,DXF,ECRGTOC,EDIGEO,EHdr,EIR,ELAS,ERS,ESAT,ESRIC,ESRIJSON,"
    "ESRI Shapefile,EXR,FAST,FIT,FITS,FlatGeobuf,FujiBAS,GDALG,GeoJSON,GeoJSONSeq,GeoRSS,GenBin,GFF,GIF,GML,GMLAS,"
    "GNMDatabase,GNMFile,GPKG,GPX,GRASSASCIIGrid,GS7BG,GSAG,GSBG,GSC,GTX,GXF,HEIF,HF2,HFA,IDA,ILWIS,INGR,IRIS,ISCE,"
    "ISG,ISIS2,ISIS3,JAXAPALSAR,JDEM,JPEG,JPEGXL,JSONFG,KEA,KML,KMLSUPEROVERLAY,KRO,KTX2,L1B,LAN,LCP,LERC,LIBERTIFF,"
    "LIBKML,LOSLAS,Leveller,MAP,MapInfo File,MBTiles,Memory,MFF,MFF2,MiraMonVector,MRF,MSG,MSGN,MVT,MapML,NDF,"
    "NGSGEOID,NITF,NOAA_B,NSIDCbin,NTv2,NWT_GRC,NWT_GRD,OAPIF,ODS,OGR_GMT,OGR_VRT,OSM,OZI,OpenFileGDB,PAux,PCIDSK,"
    "PCRaster,PDF,PDS,PDS4,PGDUMP,PMTiles,PNM,PRF,R,RCM,RDA,RIK,RMF,ROI_PAC,RPFTOC,RRASTER,RS2,RST,Rasterlite,S102,"
    "S104,S111,S57,SAFE,SAGA,SAR_CEOS,SDTS,SENTINEL2,SGI,SIGDEM,SNODAS,SQLite,SRP,SRTMHGT,SXF,Selafin,TGA,TIGER,TIL,"
    "TSX,Terragen,TileDB,TopoJSON,UK .NTF,USGSDEM,VDV,VFK,VICAR,WAsP,WEBP,WFS,XLSX,XODR,XPM,XYZ,ZMap"
)

#: Decoded blocks that GDAL keeps, per process, in MB.
BLOCK_CACHE_MB = 256


def gdal_environment() -> dict[str, str]:
    """Environment variables to set before GDAL (rasterio) is imported.

    No driver that follows references, no network, no sidecar files, no plugins, no configuration files of the host,
    one thread, and a block cache of a fixed size whatever the machine.
    """
    return {
        "GDAL_SKIP": _SKIPPED_DRIVERS,
        "OGR_SKIP": _SKIPPED_DRIVERS,
        "GDAL_DRIVER_PATH": "disable",  # loads no plugin libraries
        "GDAL_PYTHON_DRIVER_PATH": "",
        "GDAL_CONFIG_FILE": "",  # reads no gdalrc
        "GDAL_CACHEMAX": str(BLOCK_CACHE_MB),
        "GDAL_MAX_RAW_BLOCK_CACHE_SIZE": "10000000",
        "GDAL_MAX_BAND_COUNT": "65536",
        "PROJ_NETWORK": "OFF",
        "HDF5_PLUGIN_PRELOAD": "::",  # HDF5 loads no filter libraries from disk
        "HDF5_USE_FILE_LOCKING": "FALSE",  # read-only and parallel file systems have no locks
        "NCRCENV_IGNORE": "1",  # netCDF reads no .ncrc of the home or working directory
        "AWS_EC2_METADATA_DISABLED": "true",
        "OPJ_NUM_THREADS": "1",
        **runtime_options(),
    }


def runtime_options() -> dict[str, str]:
    """The options among them that GDAL looks up whenever it needs them; valid as `rasterio.Env(**options)`."""
    return {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_NUM_THREADS": "1",
        "GDAL_VRT_ENABLE_PYTHON": "NO",
        "GDAL_VRT_ENABLE_RAWRASTERBAND": "NO",
        "GDAL_HTTP_MAX_RETRY": "0",
        "GDAL_HTTP_CONNECTTIMEOUT": "1",
        "GDAL_HTTP_TIMEOUT": "1",
        "CPL_VSIL_CURL_ALLOWED_EXTENSIONS": ".never",
        "CPL_VSIL_CURL_USE_HEAD": "NO",
        "CPL_CURL_ENABLE_VSIMEM": "NO",
        "CPL_VSIL_DEFLATE_CHUNK_SIZE": "1M",
        "CPL_DEBUG": "OFF",
        "GDAL_ALLOW_LARGE_LIBJPEG_MEM_ALLOC": "NO",
        "GTIFF_IGNORE_READ_ERRORS": "NO",
        "GDAL_GEOREF_SOURCES": "INTERNAL",
    }
